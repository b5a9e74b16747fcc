"""Events to files: ftrace text, columns, Parquet, and a trace made into one of these."""
