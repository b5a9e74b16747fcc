"""One run or several: what may be asked for, the run itself, what it came to. Prints nothing."""
