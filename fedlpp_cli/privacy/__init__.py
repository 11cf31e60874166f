"""What differential privacy needs beside a training: an accountant, a ledger, secret random streams."""
