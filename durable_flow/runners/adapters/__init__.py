"""How workers hear of executions that wait for them."""
