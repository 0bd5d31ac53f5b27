"""Prices, holds, leases and the ledger: everything that decides what is charged."""
