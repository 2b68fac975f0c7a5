"""A web service in which each request is a workflow of ten steps: ours, DBOS', and who calls them."""
