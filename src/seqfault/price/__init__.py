"""Virtual time: the text run with one clock a CPU, and what it costs on machines one does not have."""
