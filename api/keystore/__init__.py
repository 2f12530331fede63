"""Where API keys are kept: one Protocol, two stores."""
