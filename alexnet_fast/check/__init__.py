"""`alexnet-fast check`: proves an installation on the machine it runs on."""
