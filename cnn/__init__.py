from cnn import functional  # noqa
