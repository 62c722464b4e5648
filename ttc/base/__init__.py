"""The ground floor: names, dtypes and dimensions that every stratum speaks of, which TensorRT package is
installed, and how and where files are read and written; nothing here knows a format.
"""
