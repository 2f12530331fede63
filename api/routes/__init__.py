"""The Quart routes: one module per group, each with ``register(app, services)``."""
