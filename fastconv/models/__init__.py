"""Networks, untrained; convolutional ones with torchvision's layers and state_dict keys where torchvision has them.

    from fastconv import models

    net = models.vgg16()
    net.load_state_dict(fastconv.load("vgg16.safetensors"))

Input is an array or a Tensor: images (N, channels, H, W) float32, output (N, num_classes), scores before softmax; or,
for those of sequences, the numbers of words (B, T), any integer dtype, see each.
"""

from fastconv.models.alexnet import AlexNet, alexnet
from fastconv.models.classifier import LSTMClassifier, lstm_classifier
from fastconv.models.emnist import EMNIST_Net
from fastconv.models.googlenet import GoogLeNet, GoogLeNetOutputs, Inception, googlenet
from fastconv.models.lenet import lenet5
from fastconv.models.nin import nin
from fastconv.models.qst_encoder import QstEncoder, qst_encoder
from fastconv.models.seq2seq import Seq2Seq, seq2seq
from fastconv.models.tagger import BMES, LSTMTagger, bmes_tags, bmes_words, lstm_tagger
from fastconv.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

# What can be built by its name.
BUILDERS = {
    build.__name__: build
    for build in (
        alexnet,
        EMNIST_Net,
        googlenet,
        lenet5,
        lstm_classifier,
        lstm_tagger,
        nin,
        qst_encoder,
        seq2seq,
        vgg11,
        vgg11_bn,
        vgg13,
        vgg13_bn,
        vgg16,
        vgg16_bn,
        vgg19,
        vgg19_bn,
    )
}

__all__ = [
    "BMES",
    "BUILDERS",
    "VGG",
    "AlexNet",
    "EMNIST_Net",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "Inception",
    "LSTMClassifier",
    "LSTMTagger",
    "QstEncoder",
    "Seq2Seq",
    "alexnet",
    "bmes_tags",
    "bmes_words",
    "googlenet",
    "lenet5",
    "lstm_classifier",
    "lstm_tagger",
    "nin",
    "qst_encoder",
    "seq2seq",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
