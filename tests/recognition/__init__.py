"""One layer of each kind, as each framework's users write it, and the named ops it must become."""
