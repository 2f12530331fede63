"""Routes of the Quart-Trio app, a module for each part of the contract."""
