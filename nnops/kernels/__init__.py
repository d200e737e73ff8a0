"""Other ways to compute named ops; each is tested against the op's reference."""
