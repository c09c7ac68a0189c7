"""`python -m alexnet_fast` is `alexnet-fast`."""

from alexnet_fast.commands.main import main

if __name__ == "__main__":
    main()
