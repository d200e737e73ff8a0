"""``python -m jaxpress`` is the ``jaxpress`` command."""

from jaxpress.cli import main

if __name__ == "__main__":
    main()
