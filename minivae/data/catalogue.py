"""What each named data set is: its classes, the names under which people have its files, and its mirrors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Checked:
    """What a file must be: so many bytes, with this checksum."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """One zip file that holds all the files of a data set, in the folder `inside` of it."""

    name: str
    inside: str
    checked: Checked


@dataclass(frozen=True)
class Collection:
    """A named data set and the forms in which it is distributed."""

    name: str
    title: str
    class_names: tuple
    folders: tuple  # sub-folders that may hold it, torchvision's included
    files: tuple  # IDX: training images, training labels, test images, test labels
    csv_files: tuple  # training, test
    mirrors: tuple  # in the order in which they are asked
    checked: tuple  # of `files`, gzip-compressed, as the mirrors or the archive have them
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
    checked=(
        Checked(9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        Checked(28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        Checked(1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        Checked(4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    train_labels_md5="a25bea736e30d166cdddb491f175f624",
)
FASHION_MNIST = Collection(
    name="fashion-mnist",
    title="Fashion-MNIST",
    class_names=tuple("T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")),
    folders=("fashion-mnist", "FashionMNIST"),
    files=MNIST.files,
    csv_files=("fashion-mnist_train.csv", "fashion-mnist_test.csv"),
    mirrors=(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",  # which has no https
    ),
    checked=(
        Checked(26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        Checked(29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        Checked(4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        Checked(5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
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
    archive=Archive(
        "gzip.zip",
        inside="gzip",
        checked=Checked(561_753_746, "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"),
    ),
    checked=(
        Checked(30_804_864, "6288f418a917e007bf5fddb823a2dc7a5c6a35031401b93292a539cb12bd881f"),
        Checked(79_283, "9759af91ea6bccdf07a6040fd085861f2ec88e37f7c3f5760f6feb57106fbe5c"),
        Checked(5_039_157, "50f0e93d75b99b463e9760b8345866f22587fa2c2fba472730a5ba09c693412d"),
        Checked(144, "924955c31fe7fd809b7303b5c0141282955f4b8390c74cdfd5d80435e0f4b4cb"),
    ),
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
