"""Ways of driving executions."""
