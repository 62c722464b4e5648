"""The ground floor: names, dtypes and dimensions that every stratum speaks of; nothing here knows a file."""
