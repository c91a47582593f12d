"""The planted world: small pictures whose spurious features are known, and networks for them."""
