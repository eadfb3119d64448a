"""Continuations held to a grammar: a JSON schema, an expression, choices, or a Lark grammar."""
