"""The commands of `anyscene`: parsing, and what each calls. Nothing heavy is imported before."""
