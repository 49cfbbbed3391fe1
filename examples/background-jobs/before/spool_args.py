"""A spooler carries bytes and nothing else: arguments become bytes, and bytes arguments."""

import json

PREFIX = "arg_"  # tells them from the keys that the decorator and uWSGI add


def prepare_spooler_args(**arguments):
    return {f"{PREFIX}{name}".encode(): json.dumps(value).encode() for name, value in arguments.items()}


def restore_spooler_args(args):
    return {key.removeprefix(PREFIX): json.loads(value) for key, value in args.items() if key.startswith(PREFIX)}
