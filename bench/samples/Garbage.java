import java.util.ArrayList;

/** Threads that make garbage, so that the collector maps, touches and gives back memory. */
public class Garbage {
    public static void main(String[] args) throws Exception {
        long end = System.nanoTime() + (long) (Double.parseDouble(args[0]) * 1e9);
        Thread[] workers = new Thread[2];
        for (int i = 0; i < workers.length; i++) {
            workers[i] = new Thread(() -> {
                long n = 0;
                while (System.nanoTime() < end) {
                    ArrayList<byte[]> kept = new ArrayList<>();
                    for (int j = 0; j < 400; j++) kept.add(new byte[16_000 + (int) (n++ % 9) * 1000]);
                    if (n % 4000 == 0) System.gc();
                }
            });
            workers[i].start();
        }
        for (Thread w : workers) w.join();
    }
}
