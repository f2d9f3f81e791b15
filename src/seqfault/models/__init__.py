"""Small models that other tools have counted: a record written under a lock and read under a sequence count."""
