"""Handwritten digits with scikit-learn: trained through the pod, in versions that are kept."""

import csv
import json
import os
import pickle
import sys
import time
from pathlib import Path

import numpy
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sdk" / "python"))

import aipod  # noqa: E402

PIXELS = [f"p{i}" for i in range(64)]  # 8 rows of 8, ink from 0 to 16
DEFAULT = "default"


def read(path):
    """The rows of a CSV file: an array (rows, 64) and the labels, or None if there is no such column."""
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        missing = [name for name in PIXELS if name not in (reader.fieldnames or [])]
        if missing:
            raise aipod.InputError(f"the payload has no column {missing[0]}: give CSV with the columns p0 to p63, and label for training")
        rows, labels = [], []
        for number, row in enumerate(reader, 2):
            try:
                rows.append([float(row[name]) for name in PIXELS])
                if "label" in row:
                    labels.append(int(row["label"]))
            except (TypeError, ValueError) as e:
                raise aipod.InputError(f"line {number}: {e}") from None
    if not rows:
        raise aipod.InputError("the payload has no rows")
    return numpy.array(rows), numpy.array(labels) if labels else None


class Digits(aipod.Model):
    def load(self, version):
        self.loaded = {}  # by name: when its file was written, and the version
        if version:
            self.find(version)

    def versions(self):
        return sorted(file.stem for file in self.data_dir.glob("*.pickle"))

    def find(self, name):
        """A version, from memory unless another process has trained it anew."""
        if name not in self.versions():
            raise aipod.VersionNotFound(name, have=self.versions())
        file = self.data_dir / f"{name}.pickle"
        written = file.stat().st_mtime_ns
        if self.loaded.get(name, (None,))[0] != written:
            self.loaded[name] = written, pickle.loads(file.read_bytes())
        return self.loaded[name][1]

    @aipod.payload("text/csv")
    def train(self, context, path, C=10.0, gamma=0.001, version=DEFAULT):
        """Trains: payload CSV with p0…p63 and label; kwargs C=10, gamma=0.001, version="default"."""
        name = context.version or version
        if not name.replace("-", "").replace("_", "").isalnum():
            raise aipod.InputError(f"a version can't be named {name!r}: use letters, digits, - and _")
        begun = time.time()
        rows, labels = read(path)
        if labels is None:
            raise aipod.InputError("the payload has no column label")
        context.progress(1, 3, "steps", "read")
        classifier = SVC(C=C, gamma=gamma).fit(rows, labels)
        context.progress(2, 3, "steps", "trained")
        log = [
            {"step": "read", "rows": len(rows), "labels": len(set(labels.tolist()))},
            {"step": "trained", "C": C, "gamma": gamma, "support_vectors": int(classifier.n_support_.sum()), "seconds": round(time.time() - begun, 3)},
        ]
        self.save(name, {"classifier": classifier, "log": log})
        context.progress(3, 3, "steps", "saved")
        return {"version": name, "rows": len(rows), "accuracy_on_training_rows": float(classifier.score(rows, labels))}

    def save(self, name, what):
        """Writes a version so that it is old or new, never half."""
        temporary = self.data_dir / f".{name}.{os.getpid()}"
        with open(temporary, "wb") as f:
            pickle.dump(what, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, self.data_dir / f"{name}.pickle")

    @aipod.payload("text/csv")
    def predict(self, context, path, version=DEFAULT):
        """Predicts labels: payload CSV with p0…p63, and perhaps label; kwargs version="default"."""
        name = self.version or version
        classifier = self.find(name)["classifier"]
        rows, labels = read(path)
        predicted = classifier.predict(rows)
        result = {"version": name, "labels": predicted.tolist()}
        if labels is not None:
            result["accuracy"] = float((predicted == labels).mean())
        return result

    @aipod.payload("none")
    def log(self, context, path, version=DEFAULT):
        """Tells the training log of a version: kwargs version="default"."""
        name = self.version or version
        return {"version": name, "lines": [json.dumps(line) for line in self.find(name)["log"]]}


if __name__ == "__main__":
    aipod.run(Digits)
