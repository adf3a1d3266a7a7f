"""Writes scikit-learn's handwritten digits as DIR/train.csv and DIR/test.csv, a fifth of each digit held out."""

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

rows, labels = load_digits(return_X_y=True)
parts = train_test_split(rows, labels, test_size=0.2, stratify=labels, random_state=1)
directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
for name, pixels, digits in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
    with open(directory / f"{name}.csv", "w", newline="") as f:
        out = csv.writer(f)
        out.writerow([f"p{i}" for i in range(64)] + ["label"])
        out.writerows([*(int(p) for p in row), int(digit)] for row, digit in zip(pixels, digits))
    print(f"{directory / name}.csv: {len(digits)} rows")
