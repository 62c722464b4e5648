"""The ground floor: names, dtypes and dimensions that every stratum speaks of, and which TensorRT package is
installed; nothing here knows a file.
"""
