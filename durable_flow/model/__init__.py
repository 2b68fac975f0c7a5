"""The data everything else works on: frozen structs without behaviour of their own."""
