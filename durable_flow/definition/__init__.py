"""From a document to a definition that can run: read, checked, explained.

`document` makes a tree with positions of YAML or JSON text, `source` finds it, `reader` turns nodes into config structs
by their annotations, `parser` makes the WorkflowDef, `flow` and `validator` check it as a whole, `loading` does all of
it. `inputs` checks what an execution is started with; `json_schema` and `graph` show the language and a definition.
"""
