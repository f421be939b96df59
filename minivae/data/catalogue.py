"""What each named data set is: its classes, the names under which people have its files, and its mirrors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One zip file that holds all the files of a data set, in the folder `inside` of it."""

    name: str
    md5: str
    inside: str


@dataclass(frozen=True)
class Collection:
    """A named data set and the forms in which it is distributed."""

    name: str
    title: str
    class_names: tuple
    folders: tuple  # sub-folders that may hold it, torchvision's included
    files: tuple  # IDX: training images, training labels, test images, test labels
    csv_files: tuple  # training, test
    mirrors: tuple
    md5s: tuple = ()  # of `files`, gzip-compressed, as the mirrors have them
    archive: Archive | None = None
    npz_file: str | None = None
    first_label: int = 0
    transposed: bool = False  # the files store each image with rows and columns exchanged
    train_labels_md5: str | None = None  # of the uncompressed IDX file in its standard order


def _idx_files(prefix, test):
    return tuple(f"{prefix}{part}-{kind}-ubyte" for part in ("train", test) for kind in ("images-idx3", "labels-idx1"))


MNIST = Collection(
    name="mnist",
    title="MNIST",
    class_names=tuple("0123456789"),
    folders=("mnist", "MNIST"),
    files=_idx_files("", "t10k"),
    csv_files=("mnist_train.csv", "mnist_test.csv"),
    npz_file="mnist.npz",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    md5s=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    train_labels_md5="a25bea736e30d166cdddb491f175f624",
)
FASHION_MNIST = Collection(
    name="fashion-mnist",
    title="Fashion-MNIST",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    folders=("fashion-mnist", "FashionMNIST"),
    files=MNIST.files,
    csv_files=("fashion-mnist_train.csv", "fashion-mnist_test.csv"),
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    md5s=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
EMNIST_LETTERS = Collection(
    name="emnist-letters",
    title="EMNIST letters",
    class_names=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    folders=("emnist-letters", "emnist", "EMNIST"),
    files=_idx_files("emnist-letters-", "test"),
    csv_files=("emnist-letters-train.csv", "emnist-letters-test.csv"),
    mirrors=("https://biometrics.nist.gov/cs_links/EMNIST",),
    archive=Archive("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e", inside="gzip"),
    first_label=1,
    transposed=True,
)
COLLECTIONS = {collection.name: collection for collection in (MNIST, FASHION_MNIST, EMNIST_LETTERS)}


def named_by(folder_name):
    """The title of the data set that a folder's name announces ("FashionMNIST", "my-mnist"), or None."""
    word = "".join(filter(str.isalnum, folder_name.lower()))
    for sign, title in (
        ("fashion", "Fashion-MNIST"),
        ("emnist", "EMNIST"),
        ("kmnist", "Kuzushiji-MNIST"),
        ("qmnist", "QMNIST"),
        ("mnist", "MNIST"),
    ):
        if sign in word:
            return title
    return None
