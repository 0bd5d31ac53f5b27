"""Payment providers behind one interface: where credit is paid, and who says that it was."""
