"""Small networks with strides, pools, dilation and padding, and what tests of them share."""

import torch
from torch import nn

from deconv1d import Sonifier

RATE = 1000


def padded():
    layers = [nn.Conv1d(1, 4, 9, stride=2, padding=4), nn.ReLU(), nn.MaxPool1d(3, 2, padding=1)]
    return nn.Sequential(*layers, nn.Conv1d(4, 5, 5, padding=2, dilation=1), nn.ReLU())


def unpadded():
    layers = [nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(
        *layers, nn.Conv1d(4, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 5, 3)
    )


def dilated():
    layers = [nn.Conv1d(1, 4, 3, padding=4, dilation=4), nn.ELU(), nn.AvgPool1d(4, 3)]
    return nn.Sequential(*layers, nn.Conv1d(4, 5, 3, dilation=2), nn.GELU())


def refined():
    layers = [nn.Conv1d(1, 4, 8, stride=4), nn.ReLU(), nn.ConvTranspose1d(4, 4, 4, stride=2)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv1d(4, 5, 3, padding=1))


NETWORKS = {"padded": padded, "unpadded": unpadded, "dilated": dilated, "refined": refined}


def sonifier_of(name):
    torch.manual_seed(0)
    return Sonifier(NETWORKS[name]().double().eval(), sample_rate=RATE)


def last_layer(sonifier):
    return [n for n, m in sonifier.model.named_modules() if isinstance(m, nn.Conv1d)][-1]
