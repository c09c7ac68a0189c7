"""Start, and what each verb of the command line does with its words: thin, the work is in the rooms."""
