"""Say which kernels, threads and versions are in use."""
import argparse

from cnn import config


def main(arguments=None, prog=None):
    argparse.ArgumentParser(prog=prog, description=__doc__).parse_args(arguments)
    config.show_config()
