"""The kernels: one folder a backend, one file a kernel, installed as `fastconv.kernels`."""

if __name__ != "fastconv.kernels":
    raise ImportError(
        f"the folder kernels/ is the package fastconv.kernels and was imported as {__name__!r}; "
        "install the project (pip install -e .) and import fastconv.kernels"
    )
