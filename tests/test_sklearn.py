"""The estimators of scikit-learn: its own checks, shapes of X, the training of a Trainer, searches by processes."""

import os
import pickle

import numpy as np
import pytest
from processes import run_python

import cnn

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'cnn[sklearn]'")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from cnn.sklearn import CNNClassifier, CNNRegressor  # noqa: E402
from cnn.sklearn.network import small_net  # noqa: E402

RNG = np.random.default_rng(0)
REPEATED = "an image that is there twice makes more steps, in other batches, than one with the weight 2"
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": REPEATED,
            "check_sample_weight_equivalence_on_sparse_data": REPEATED}


@parametrize_with_checks([CNNClassifier(), CNNRegressor()], expected_failed_checks=lambda estimator: EXPECTED)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_no_tag_keeps_checks_away():
    for estimator in (CNNClassifier(), CNNRegressor()):
        tags = estimator.__sklearn_tags__()
        assert tags.input_tags.two_d_array and not tags.no_validation and not tags.non_deterministic
        assert tags.classifier_tags is None or not tags.classifier_tags.poor_score
        assert tags.regressor_tags is None or not tags.regressor_tags.poor_score


def bars(n=60, side=8, dtype=np.uint8):
    """Images with one bright row or column, and which of the two."""
    y = RNG.integers(0, 2, n)
    X = RNG.integers(0, 60, (n, side, side))
    for image, label, at in zip(X, y, RNG.integers(0, side, n), strict=True):
        (image if label else image.T)[at] = 255
    return X.astype(dtype), y


@pytest.mark.parametrize("labels", [np.array(["row", "column"]), np.array([7, -3]), np.array([True, False])])
def test_labels_of_any_kind(labels):
    X, y = bars()
    classifier = CNNClassifier(max_iter=30, random_state=0).fit(X, labels[y])
    assert classifier.classes_.tolist() == sorted(labels.tolist())
    assert classifier.predict(X).dtype == labels.dtype
    assert classifier.score(X, labels[y]) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(X).sum(1), 1)
    np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), classifier.predict_proba(X))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_all_shapes_of_the_same_images_give_the_same(dtype):
    X, y = RNG.integers(0, 256, (20, 3, 6, 5)).astype(dtype), np.arange(20) % 2
    made = {"first": (X, None), "last": (X.transpose(0, 2, 3, 1), None), "flat": (X.reshape(20, -1), (3, 6, 5)),
            "flat last": (X.transpose(0, 2, 3, 1).reshape(20, -1), (6, 5, 3))}
    wanted = None
    for name, (images, shape) in made.items():
        found = CNNClassifier(image_shape=shape, max_iter=2, random_state=0).fit(images, y).predict_proba(images)
        wanted = found if wanted is None else wanted
        assert np.array_equal(found, wanted), name


def test_bytes_and_numbers_are_in_the_same_unit():
    X, y = bars()
    classifier = CNNClassifier(max_iter=2, random_state=0).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X.astype(float)), classifier.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("shape, image", [((9,), (1, 3, 3)), ((10,), (1, 1, 10)), ((1,), (1, 1, 1)),
                                          ((4, 7), (1, 4, 7)), ((1, 1, 1), (1, 1, 1)),
                                          ((1, 40, 30), (1, 40, 30)), ((100,), (1, 10, 10))])
def test_small_images_and_features(shape, image):
    X, y = RNG.standard_normal((18, *shape)), np.arange(18) % 3
    classifier = CNNClassifier(max_iter=1).fit(X, y)
    assert classifier.image_shape_ == image and classifier.n_features_in_ == np.prod(image)
    assert classifier.predict(X).shape == (18,)
    assert CNNRegressor(max_iter=1).fit(X, y).predict(X).shape == (18,)


@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_fit_is_the_training_of_a_trainer(kind):
    train = cnn.data.load("mnist-sample")[0].subset(slice(0, 300))
    X = train.images.astype(kind)
    classifier = CNNClassifier("lenet5", max_iter=2, batch_size=32, random_state=3).fit(X, train.labels)
    model, white = cnn.models.lenet5(seed=classifier._seed), 255 if kind == np.uint8 else 1
    data = cnn.data.Dataset(X if kind == np.uint8 else X.astype(np.float32), train.labels,
                            mean=[X.mean(dtype=float) / white], std=[X.std(dtype=float) / white])
    trainer = cnn.Trainer(model, cnn.Adam(model.parameters(), 0.001), progress=False)
    history = trainer.fit(data, 2, batch_size=32, seed=classifier._seed)
    assert classifier.loss_curve_ == pytest.approx([row["train_loss"] for row in history], rel=1e-5)
    np.testing.assert_allclose(classifier._scores_of(X), trainer.predict(data), rtol=1e-3, atol=1e-4)


def test_partial_fit_goes_on():
    X, y = bars()
    classifier = CNNClassifier(random_state=0)
    with pytest.raises(ValueError, match="the first call to partial_fit needs classes"):
        classifier.partial_fit(X, y)
    for _ in range(30):
        classifier.partial_fit(X, y, classes=[0, 1, 5])
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 30 and classifier.classes_.tolist() == [0, 1, 5]
    assert classifier.score(X, y) > 0.9
    whole = CNNClassifier(random_state=0, max_iter=30, n_iter_no_change=99).fit(X, y)
    two = CNNClassifier(random_state=0).partial_fit(X, y, classes=[0, 1])
    for _ in range(29):
        two.partial_fit(X, y)
    assert np.array_equal(whole.predict_proba(X), two.predict_proba(X))
    with pytest.raises(ValueError, match="y must hold labels of classes_"):
        two.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="class_weight as a dict"):
        CNNClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


def test_warm_start_goes_on_and_fit_alone_begins_anew():
    X, y = bars()
    classifier = CNNClassifier(max_iter=3, random_state=0).fit(X, y)
    first = classifier.predict_proba(X)
    assert np.array_equal(classifier.fit(X, y).predict_proba(X), first)
    warm = CNNClassifier(max_iter=3, random_state=0, warm_start=True).fit(X, y)
    assert np.array_equal(warm.predict_proba(X), first)
    model = warm.model_
    assert warm.fit(X, y).model_ is model and warm.loss_curve_[-1] < classifier.loss_curve_[-1]


def test_early_stopping_ends_with_the_best_weights():
    X, y = bars(80)
    classifier = CNNClassifier(max_iter=200, random_state=0, early_stopping=True, validation_fraction=0.25,
                               n_iter_no_change=3).fit(X, y)
    scores = classifier.validation_scores_
    assert classifier.n_iter_ == len(scores) < 200 and classifier.best_validation_score_ == max(scores)
    assert max(scores[:-4]) >= max(scores[-4:]) - 1e-4      # nothing better in the last four
    learnt, held = classifier._parted(X[:, None], y, None)[::3]
    assert len(held[0]) == 20 and len(learnt) == 60
    assert classifier.score(held[0], held[1]) == max(scores)


def test_training_stops_where_the_loss_stays():
    X, y = bars(20)
    assert CNNClassifier(max_iter=50, tol=100.0, n_iter_no_change=2).fit(X, y).n_iter_ == 4     # as MLPClassifier does


def test_class_and_sample_weights_multiply():
    X, y = bars(40)
    options = {"max_iter": 3, "random_state": 0, "n_iter_no_change": 99}
    weights = np.where(y == 1, 3.0, 1.0)
    by_class = CNNClassifier(class_weight={1: 3.0}, **options).fit(X, y).predict_proba(X)
    by_image = CNNClassifier(**options).fit(X, y, weights).predict_proba(X)
    np.testing.assert_allclose(by_class, by_image, atol=1e-5)
    assert np.abs(by_class - CNNClassifier(**options).fit(X, y).predict_proba(X)).max() > 1e-3
    both = CNNClassifier(class_weight={1: 3.0}, **options).fit(X, y, weights).predict_proba(X)
    nine = CNNClassifier(**options).fit(X, y, weights**2).predict_proba(X)
    np.testing.assert_allclose(both, nine, atol=1e-6)


def test_images_of_weight_0_are_none():
    X, y = bars(40)
    weights = (np.arange(40) % 4 > 0).astype(float)
    options = {"max_iter": 2, "random_state": 0}
    some = CNNClassifier(**options).fit(X, y, weights)
    rest = CNNClassifier(**options).fit(X[weights > 0], y[weights > 0], np.ones(30))
    assert np.array_equal(some.predict_proba(X), rest.predict_proba(X))


def test_regression_learns_positions():
    X, where = RNG.integers(0, 50, (200, 8, 8)).astype(np.uint8), RNG.integers(0, 8, (200, 2))
    X[np.arange(200), where[:, 0], where[:, 1]] = 255
    regressor = CNNRegressor(max_iter=60, random_state=0, n_iter_no_change=60).fit(X, where * 1000.0 + 5)
    assert regressor.predict(X).shape == (200, 2) and regressor.score(X, where * 1000.0 + 5) > 0.8


def test_copies_by_pickle_and_clone():
    X, y = bars(20)
    classifier = CNNClassifier(max_iter=2, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert np.array_equal(again.partial_fit(X, y).predict_proba(X), classifier.partial_fit(X, y).predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(classifier).predict(X)


def own_net(in_channels, num_classes, image_size, seed):
    return cnn.Sequential(cnn.Conv2d(in_channels, 4, 3, padding=1, seed=seed), cnn.BatchNorm2d(4), cnn.ReLU(),
                          cnn.GlobalAvgPool2d(), cnn.Linear(4, num_classes, seed=seed))


def test_a_network_of_ones_own_and_a_last_batch_of_one_image():
    X, y = RNG.standard_normal((17, 1)), np.arange(17) % 2
    assert CNNClassifier(own_net, batch_size=16, max_iter=2).fit(X, y).predict(X).shape == (17,)


@pytest.mark.parametrize("parameters, error, words", [
    ({"model": "lenet6"}, ValueError, "model must be 'auto'"),
    ({"model": 3}, TypeError, "model must be a name or a function"),
    ({"model": lambda *sizes, seed: 3}, TypeError, "must return a Module, got int"),
    ({"solver": "lbfgs"}, ValueError, "solver must be 'adam'"),
    ({"learning_rate": "adaptive"}, ValueError, "learning_rate must be 'constant' or 'cosine'"),
    ({"batch_size": 0}, ValueError, "batch_size"), ({"max_iter": 0}, ValueError, "max_iter"),
    ({"image_shape": (3, 8)}, ValueError, r"X must have shape \(n, 1, 3, 8\) or \(n, 24\) or \(n, 3, 8\)"),
    ({"image_shape": 8}, TypeError, "image_shape must be"),
    ({"class_weight": {9: 1.0}}, ValueError, "class_weight must be of labels of y"),
    ({"early_stopping": True, "validation_fraction": 1.5}, ValueError, "validation_fraction must be below 1")])
def test_wrong_parameters_are_refused_by_fit(parameters, error, words):
    X, y = bars(20)
    with pytest.raises(error, match=words):
        CNNClassifier(**parameters).fit(X, y)


def test_wrong_images_and_weights_are_refused():
    X, y = bars(20)
    classifier = CNNClassifier(max_iter=1).fit(X, y)
    for wrong in (X[:, :7], X[:, None, None], X.reshape(20, -1)[:, 1:]):
        with pytest.raises(ValueError):
            classifier.predict(wrong)
    with pytest.raises(ValueError, match="square images"):
        CNNClassifier("lenet5").fit(X[:, :7], y)
    for weights in (np.zeros(20), -np.ones(20), np.ones(19), np.full(20, np.nan)):
        with pytest.raises(ValueError):
            CNNClassifier(max_iter=1).fit(X, y, weights)


def test_pipeline_cross_validation_and_search_by_processes():
    X, y = bars(48)
    pipeline = make_pipeline(MinMaxScaler(), CNNClassifier(max_iter=2, random_state=0))
    scores = cross_val_score(pipeline, X.reshape(48, -1), y, cv=2)
    search = GridSearchCV(pipeline, {"cnnclassifier__batch_size": [16, 24]}, cv=2, n_jobs=2)
    search.fit(X.reshape(48, -1), y)
    assert search.cv_results_["mean_test_score"][0] == scores.mean()     # the same bits in another process


def threads_there(_):
    return cnn.get_num_threads()


def test_processes_share_the_cores():
    code = ("import os; [os.environ.pop(f'{name}_NUM_THREADS', None) for name in ('CNN', 'OMP')]; "
            "import joblib, cnn; from test_sklearn import threads_there; "
            "print(max(joblib.Parallel(2)(joblib.delayed(threads_there)(i) for i in range(4))), cnn.get_num_threads())")
    here = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(cnn.__file__))])
    result = run_python("-c", code, PYTHONPATH=here)
    assert result.returncode == 0, result.stderr
    each, alone = map(int, result.stdout.split())
    assert 2 * each <= max(2, alone)


def test_import_cnn_does_not_import_scikit_learn():
    result = run_python("-c", "import cnn, sys; assert 'sklearn' not in sys.modules; cnn.sklearn.CNNClassifier")
    assert result.returncode == 0, result.stderr


def test_the_small_network_fits_any_size():
    for size in ((1, 1), (1, 9), (64, 3), (65, 65), 28):
        sides = (size, size) if isinstance(size, int) else size
        assert small_net(2, 5, size)(np.zeros((3, 2, *sides), np.float32)).shape == (3, 5)


def test_without_scikit_learn_the_extra_is_named():
    code = ("import importlib.util as u; f = u.find_spec; "
            "u.find_spec = lambda name, *more: None if name == 'sklearn' else f(name, *more); import cnn; cnn.sklearn")
    result = run_python("-c", code)
    assert result.returncode and "needs the package scikit-learn: pip install 'cnn[sklearn]'" in result.stderr


