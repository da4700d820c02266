"""Small neural networks, trained in numpy.

A layer remembers what `forward` saw, so that `backward` can turn the gradient of its output into the
gradient of its input. Images are [batch, height, width, channel] here, because a convolution is then one
matrix product without transposing; `Conv.onnx_weight` gives the order that ONNX wants.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Dense:
    def __init__(self, inputs, outputs, chance):
        self.weight = (chance.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.params = [self.weight, self.bias]

    def forward(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, grad):
        self.grads = [self.x.T @ grad, grad.sum(0)]
        return grad @ self.weight.T


class Conv:
    """A convolution with a square kernel of odd size, padded so that stride 1 keeps the image's size."""

    def __init__(self, channels_in, channels_out, size, stride, chance):
        self.size, self.stride, self.pad = size, stride, size // 2
        self.channels_in = channels_in
        self.dense = Dense(size * size * channels_in, channels_out, chance)
        self.params = self.dense.params

    def forward(self, x):
        pad = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
        padded = np.pad(x, pad)
        windows = sliding_window_view(padded, (self.size, self.size), axis=(1, 2))
        windows = windows[:, :: self.stride, :: self.stride].transpose(0, 1, 2, 4, 5, 3)
        self.padded_shape, self.out_shape = padded.shape, windows.shape[:3]
        out = self.dense.forward(windows.reshape(-1, self.size * self.size * self.channels_in))
        return out.reshape(*self.out_shape, -1)

    def backward(self, grad):
        grad = self.dense.backward(grad.reshape(-1, grad.shape[-1]))
        grad = grad.reshape(*self.out_shape, self.size, self.size, self.channels_in)
        out = np.zeros(self.padded_shape, np.float32)
        rows, columns = (n * self.stride for n in self.out_shape[1:])
        for i in range(self.size):
            for j in range(self.size):
                out[:, i : i + rows : self.stride, j : j + columns : self.stride] += grad[:, :, :, i, j]
        return out[:, self.pad : -self.pad, self.pad : -self.pad]

    @property
    def grads(self):
        return self.dense.grads

    @property
    def onnx_weight(self):
        """[channel out, channel in, row, column]."""
        weight = self.dense.weight.reshape(self.size, self.size, self.channels_in, -1)
        return np.ascontiguousarray(weight.transpose(3, 2, 0, 1))


class Relu:
    params = grads = ()

    def forward(self, x):
        self.alive = 0 < x
        return x * self.alive

    def backward(self, grad):
        return grad * self.alive


class MeanAndMax:
    """Mean and maximum of each channel over the image, side by side: a blob shows in one, a line in the other."""

    params = grads = ()

    def forward(self, x):
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows * columns, channels)
        self.shape, self.peak = (batch, rows, columns, channels), x.argmax(1)
        return np.concatenate([x.mean(1), np.take_along_axis(x, self.peak[:, None], 1)[:, 0]], axis=1)

    def backward(self, grad):
        batch, rows, columns, channels = self.shape
        mean, peak = grad[:, None, :channels], grad[:, None, channels:]
        out = np.repeat(mean / (rows * columns), rows * columns, axis=1)
        np.put_along_axis(out, self.peak[:, None], np.take_along_axis(out, self.peak[:, None], 1) + peak, 1)
        return out.reshape(self.shape)


def forward(layers, x):
    for layer in layers:
        x = layer.forward(x)
    return x


def softmax_gradient(logits, labels):
    """Gradient of the mean cross-entropy; `labels` are class numbers."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    grad = odds / odds.sum(1, keepdims=True)
    grad[np.arange(len(labels)), labels] -= 1
    return grad / len(labels)


def sigmoid_gradient(logits, labels):
    """Gradient of the mean cross-entropy of one yes or no; `labels` are 0 or 1."""
    return (1 / (1 + np.exp(-logits)) - labels[:, None].astype(np.float32)) / len(labels)


def train(layers, inputs, labels, loss_gradient, chance, *, epochs, batch, rate, vary=lambda x, chance: x):
    """Adam, with a rate that falls to nothing along half a cosine. `vary` changes each batch a little."""
    params = [param for layer in layers for param in layer.params]
    first = [np.zeros_like(param) for param in params]
    second = [np.zeros_like(param) for param in params]
    steps, step = epochs * (len(inputs) // batch), 0
    for _ in range(epochs):
        order = chance.permutation(len(inputs))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            grad = loss_gradient(forward(layers, vary(inputs[chosen], chance)), labels[chosen])
            for layer in reversed(layers):
                grad = layer.backward(grad)
            step += 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            grads = [grad for layer in layers for grad in layer.grads]
            for param, grad, mean, square in zip(params, grads, first, second):
                mean += 0.1 * (grad - mean)
                square += 0.001 * (grad * grad - square)
                param -= now * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
