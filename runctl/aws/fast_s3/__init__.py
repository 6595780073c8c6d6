"""GetObject and PutObject over connections of its own, for parts that are large or many."""
