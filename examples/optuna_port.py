"""An objective written for Optuna, with scikit-learn and pruning; the function is unchanged, only the last lines are tuner's.

python examples/optuna_port.py
tuner run --objective examples/optuna_port.py:objective --name optuna_port --direction maximize --trials 100 --workers 4
"""

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

x, y = load_breast_cancer(return_X_y=True)
train_x, valid_x, train_y, valid_y = train_test_split(StandardScaler().fit_transform(x), y, random_state=0)


def objective(trial):
    """Return the accuracy of a classifier that the trial chooses."""
    if trial.suggest_categorical("classifier", ["linear", "forest"]) == "forest":
        depth = trial.suggest_int("max_depth", 2, 32, log=True)
        forest = RandomForestClassifier(max_depth=depth, n_estimators=10, random_state=0).fit(train_x, train_y)
        return forest.score(valid_x, valid_y)
    linear = SGDClassifier(alpha=trial.suggest_float("alpha", 1e-5, 1e-1, log=True), random_state=0)
    for step in range(20):
        linear.partial_fit(train_x, train_y, classes=[0, 1])
        trial.report(linear.score(valid_x, valid_y), step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return linear.score(valid_x, valid_y)


if __name__ == "__main__":
    import sys

    import tuner

    study = tuner.study("optuna_port", function=objective, direction="maximize")
    best = study.run(trials=int(sys.argv[1]) if sys.argv[1:] else 100)
    print(f"trial {best.trial}: {best.value:.3f} with {best.hyperparameters}")
