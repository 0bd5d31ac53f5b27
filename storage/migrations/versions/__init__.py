"""One file per step. A step is never edited once released; it does not import `storage.tables`, which moves on."""
