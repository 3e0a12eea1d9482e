"""The subcommands of `wnod`: each module has add_arguments(parser) and run(args) -> exit code."""

OK, PROBLEM, USAGE, UNREACHABLE = 0, 1, 2, 3
