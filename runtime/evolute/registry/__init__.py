"""From source files to functions with validators: what an author writes, found, checked and named."""
