"""Files to clips to windows on the device."""
