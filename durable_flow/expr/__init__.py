"""The expression language: pure functions, compiled when a definition is loaded and evaluated against a scope."""
