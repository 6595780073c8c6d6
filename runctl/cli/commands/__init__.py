"""The commands of the program, one file or folder for each."""
