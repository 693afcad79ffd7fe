"""The commands: parse, call the client, print. One module for each family."""
