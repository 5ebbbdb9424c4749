"""What is known of each data set: its files, their checksums, where to get them, its classes.

Licences. MNIST (and its sample): Y. LeCun and C. Cortes, CC BY-SA 3.0. Fashion-MNIST: Zalando SE, MIT.
KMNIST: "KMNIST Dataset" (created by CODH), doi:10.20676/00000341, CC BY-SA 4.0. CIFAR-10 and CIFAR-100: no
licence stated; cite A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import os.path
from typing import NamedTuple


class Source(NamedTuple):
    """One data set.

    format: "idx" (four files: training images and labels, test images and labels) or "cifar" (an archive
        of pickled batches, the last of which holds the test images).
    downloads: MD5 of every file to download, by its name.
    mirrors: folders on the web that hold those files, best first; http only after https.
    contents: MD5 of what counts: every unpacked IDX file or every batch in the archive, by name. None
        where it is not known: then only the file as downloaded will do.
    train_size, test_size: numbers of images.
    image_shape: (H, W) of an IDX image, (C, H, W) of a CIFAR image.
    mean, std: of the training images' pixels / 255, per channel.
    folders: where else to look for the files, inside a folder of data sets (PyTorch keeps them there).
    bundled: the folder that comes with this package, for a data set that does.
    label_key: what the labels are called in a CIFAR batch.
    """

    name: str
    format: str
    downloads: dict
    mirrors: tuple
    contents: dict
    train_size: int
    test_size: int
    image_shape: tuple
    classes: tuple
    mean: tuple
    std: tuple
    folders: tuple = ()
    bundled: str | None = None
    label_key: str = "labels"


_DIGITS = tuple("0123456789")
_IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_TORONTO = "https://www.cs.toronto.edu/~kriz/"


def _idx(md5s, unpacked_md5s, train_size=60000, test_size=10000, **rest):
    downloads = {f"{name}.gz": md5 for name, md5 in zip(_IDX_NAMES, md5s, strict=True)}
    contents = dict(zip(_IDX_NAMES, unpacked_md5s, strict=True))
    return Source(
        format="idx",
        downloads=downloads,
        contents=contents,
        train_size=train_size,
        test_size=test_size,
        image_shape=(28, 28),
        **rest,
    )


def _cifar(archive, md5, contents, **rest):
    return Source(
        format="cifar",
        downloads={archive: md5},
        mirrors=(_TORONTO,),
        contents=contents,
        train_size=50000,
        test_size=10000,
        image_shape=(3, 32, 32),
        **rest,
    )


_MNIST_SAMPLE = _idx(
    name="mnist-sample",
    md5s=(
        "76e96ebbc8630b6ff325c1577cd54ba2",
        "ae0051f49ee7df56e7d67235267f9808",
        "b8d7dea5f333430f9d74c89e1204fd2b",
        "42728e81db9be872fbe981bf0e599305",
    ),
    unpacked_md5s=(
        "95f608c90457f5925e291d05b93073c9",
        "b396c0659b2e6320593bdafb30eaa958",
        "7703fc2922d06b8f9120a326bf914de2",
        "636f3e046fb01bbeefce403b2cfd779a",
    ),
    mirrors=(),
    train_size=4000,
    test_size=1000,
    classes=_DIGITS,
    mean=(0.1307,),
    std=(0.3081,),
    bundled=os.path.join(os.path.dirname(__file__), "mnist_sample"),
)

_MNIST = _idx(
    name="mnist",
    md5s=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    unpacked_md5s=(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    classes=_DIGITS,
    mean=(0.1307,),
    std=(0.3081,),
    folders=("MNIST/raw",),
)

_FASHION_MNIST = _idx(
    name="fashion-mnist",
    md5s=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    unpacked_md5s=(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    mirrors=(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
    folders=("FashionMNIST/raw",),
)  # fmt: skip

_KMNIST = _idx(
    name="kmnist",
    md5s=(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
    unpacked_md5s=(None, None, None, None),  # nowhere published
    mirrors=(
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    ),
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    mean=(0.1918,),
    std=(0.3483,),
    folders=("KMNIST/raw",),
)

_CIFAR10 = _cifar(
    name="cifar10",
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    contents={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    folders=("cifar-10-batches-py",),
)

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

_CIFAR100 = _cifar(
    name="cifar100",
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    contents={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    label_key="fine_labels",
    classes=tuple(_CIFAR100_CLASSES.split()),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    folders=("cifar-100-python",),
)

SOURCES = {
    source.name: source for source in (_MNIST_SAMPLE, _MNIST, _FASHION_MNIST, _KMNIST, _CIFAR10, _CIFAR100)
}

# SHA-256 by MD5, because files can be made that share an MD5. Not known, so that MD5 alone is checked: the unpacked
# files of Fashion-MNIST and the two batches of CIFAR-100.
SHA256 = {
    # MNIST, as downloaded and unpacked: computed from files of those MD5s
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "d53e105ee54ea40749a09fcbcd1e9432": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "9fb629c4189551a2d022fa330f9573f3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "ec29112dd5afa0611ce80d1b7f02629c": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "6bbc9ace898e44ae57da46a324031adb": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "a25bea736e30d166cdddb491f175f624": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "2646ac647ad5339dbf082846283269ea": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "27ae3e4e09519cfbb04c329615203637": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    # MNIST's sample, unpacked
    "95f608c90457f5925e291d05b93073c9": "01c279c669c4632ea8b97298fee28d0f4c5fe2bf2039e7f822f3feaac779d017",
    "b396c0659b2e6320593bdafb30eaa958": "daf1c61ba276c5ec7656a0a9c541c2f61cb96d7af3a019906cdb4cf08ef09728",
    "7703fc2922d06b8f9120a326bf914de2": "48e7795fc2f307cac39d091315c695780f904df73fef72545ee5b40d8e7948c3",
    "636f3e046fb01bbeefce403b2cfd779a": "9f9f83403fa89036e5960042fa3fdded854d1e4a5602fe4b476f8ff0e7865ff8",
    # Fashion-MNIST, as downloaded: published in TensorFlow Datasets
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "25c81989df183df01b3e8a0aad5dffbe": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "bef4ecab320f06d8554ea6380940ec79": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "bb300cfdad3c16e7a12a480ee83cd310": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    # KMNIST, as downloaded: published in TensorFlow Datasets
    "bdb82020997e1d708af4cf47b453dcf7": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
    "e144d726b3acfaa3e44228e80efcd344": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
    "5c965bf0a639b31b8f53240b1b52f4d7": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
    "7320c461ea6c1c855c0b718fb2a4b134": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    # CIFAR-10: the archive's published in Keras, the batches' computed from files of those MD5s
    "c58f30108f718f92721af3b95e74349a": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "c99cafc152244af753f735de768cd75f": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "d4bba439e000b95fd0a9bffe97cbabec": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "54ebc095f3ab1f0389bbae665268c751": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "634d18415352ddfa80567beed471001a": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "482c414d41f54cd18b22e5b47cb7c3cb": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "40351d587109b95175f43aff81a1287e": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    # CIFAR-100, the archive: published in Keras
    "eb9058c3a382ffc7106e4002c42a8d85": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
}
