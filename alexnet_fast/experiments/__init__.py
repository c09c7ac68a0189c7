"""The paper's claims as experiments, each one command: Figure 1, and the ablations."""
