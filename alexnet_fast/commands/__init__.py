"""The command line: `main` and one module per verb, which parses, calls one function and prints."""
