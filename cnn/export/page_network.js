"use strict";
// The network: a list of steps on arrays of one image, (C, H, W) or (features,). Each formula as in docs/gradients.md.

const size = shape => shape.reduce((a, b) => a * b, 1);

function elementwise(f) {
  return (step, x) => x.map(value => f(value, step));
}

// erf by its series, which is exact enough everywhere that it is used: |x| < 3; beyond, by a continued fraction
function erf(x) {
  const t = Math.abs(x);
  if (t > 6) return Math.sign(x);
  if (t < 3) {
    let term = x, sum = x;
    for (let n = 1; n < 60; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return 2 / Math.sqrt(Math.PI) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (t + fraction);
  return Math.sign(x) * (1 - Math.exp(-t * t) / Math.sqrt(Math.PI) / (t + fraction));
}

const sigmoid = x => 1 / (1 + Math.exp(-x));

const STEPS = {
  // y[k, i, j] = b[k] + sum over c, r, s of x[c, i stride + r dilation - top, j stride + s dilation - left] w[k, c, r, s]
  conv(step, x, [channels, height, width]) {
    const [outputs, tall, wide] = step.shape, [kernelH, kernelW] = step.kernel, {w, b, stride, dilation} = step;
    const inputs = channels / step.groups, each = outputs / step.groups, y = new Float32Array(outputs * tall * wide);
    for (let k = 0; k < outputs; k++) {
      if (b) y.fill(b[k], k * tall * wide, (k + 1) * tall * wide);
      const group = Math.floor(k / each) * inputs;
      for (let c = 0; c < inputs; c++) for (let r = 0; r < kernelH; r++) for (let s = 0; s < kernelW; s++) {
        const weight = w[((k * inputs + c) * kernelH + r) * kernelW + s], left = s * dilation[1] - step.left;
        const first = Math.max(0, Math.ceil(-left / stride[1]));
        const stop = Math.min(wide, Math.floor((width - 1 - left) / stride[1]) + 1);
        for (let i = 0; i < tall; i++) {
          const row = i * stride[0] + r * dilation[0] - step.top;
          if (row < 0 || row >= height) continue;
          const from = ((group + c) * height + row) * width + left, to = (k * tall + i) * wide;
          for (let j = first; j < stop; j++) y[to + j] += weight * x[from + j * stride[1]];
        }
      }
    }
    return y;
  },

  // y[k, i stride + r dilation - top, j stride + s dilation - left] += x[c, i, j] w[c, k, r, s], from b[k] on
  conv_transpose(step, x, [channels, height, width]) {
    const [outputs, tall, wide] = step.shape, [kernelH, kernelW] = step.kernel, {w, b, stride, dilation} = step;
    const inputs = channels / step.groups, each = outputs / step.groups, y = new Float32Array(outputs * tall * wide);
    for (let k = 0; b && k < outputs; k++) y.fill(b[k], k * tall * wide, (k + 1) * tall * wide);
    for (let c = 0; c < channels; c++) for (let m = 0; m < each; m++) {
      const k = Math.floor(c / inputs) * each + m;
      for (let r = 0; r < kernelH; r++) for (let s = 0; s < kernelW; s++) {
        const weight = w[((c * each + m) * kernelH + r) * kernelW + s], left = s * dilation[1] - step.left;
        const first = Math.max(0, Math.ceil(-left / stride[1]));
        const stop = Math.min(width, Math.floor((wide - 1 - left) / stride[1]) + 1);
        for (let i = 0; i < height; i++) {
          const row = i * stride[0] + r * dilation[0] - step.top;
          if (row < 0 || row >= tall) continue;
          const from = (c * height + i) * width, to = (k * tall + row) * wide + left;
          for (let j = first; j < stop; j++) y[to + j * stride[1]] += weight * x[from + j];
        }
      }
    }
    return y;
  },

  linear(step, x) {
    const y = new Float32Array(size(step.shape));
    for (let k = 0; k < y.length; k++) {
      let sum = step.b ? step.b[k] : 0;
      for (let c = 0; c < x.length; c++) sum += step.w[k * x.length + c] * x[c];
      y[k] = sum;
    }
    return y;
  },

  // a batch norm with its running statistics: y = x w[c] + b[c]
  scale(step, x) {
    const pixels = x.length / step.w.length;
    return x.map((value, i) => value * step.w[Math.floor(i / pixels)] + step.b[Math.floor(i / pixels)]);
  },

  group_norm(step, x, shape) {
    const y = new Float32Array(x.length), each = x.length / step.groups, pixels = x.length / shape[0];
    for (let g = 0; g < step.groups; g++) {
      let mean = 0, variance = 0;
      for (let i = g * each; i < (g + 1) * each; i++) mean += x[i] / each;
      for (let i = g * each; i < (g + 1) * each; i++) variance += (x[i] - mean) ** 2 / each;
      for (let i = g * each; i < (g + 1) * each; i++) {
        const c = Math.floor(i / pixels), normal = (x[i] - mean) / Math.sqrt(variance + step.eps);
        y[i] = normal * (step.w ? step.w[c] : 1) + (step.b ? step.b[c] : 0);
      }
    }
    return y;
  },

  layer_norm(step, x) {
    const y = new Float32Array(x.length);
    for (let first = 0; first < x.length; first += step.each) normal(step, x, y, step.each, first, 1);
    return y;
  },

  // over the channels of each pixel
  layer_norm2d(step, x, shape) {
    const y = new Float32Array(x.length), pixels = x.length / shape[0];
    for (let p = 0; p < pixels; p++) normal(step, x, y, shape[0], p, pixels);
    return y;
  },

  local_response_norm(step, x, shape) {
    const y = new Float32Array(x.length), pixels = x.length / shape[0];
    for (let c = 0; c < shape[0]; c++) for (let p = 0; p < pixels; p++) {
      let sum = 0;
      for (let j = Math.max(0, c - step.before); j < Math.min(shape[0], c - step.before + step.size); j++) {
        sum += x[j * pixels + p] ** 2;
      }
      y[c * pixels + p] = x[c * pixels + p] * (step.k + step.alpha / step.size * sum) ** -step.beta;
    }
    return y;
  },

  max: (step, x, shape) => windows(step, x, shape, -Infinity, Math.max, value => value),
  average: (step, x, shape) => windows(step, x, shape, 0, (a, b) => a + b, (value, count) => value / count),

  relu: elementwise(x => Math.max(x, 0)),
  leaky_relu: elementwise((x, step) => x > 0 ? x : step.slope * x),
  tanh: elementwise(Math.tanh),
  sigmoid: elementwise(sigmoid),
  silu: elementwise(x => x * sigmoid(x)),
  gelu: elementwise(x => x * (1 + erf(x / Math.SQRT2)) / 2),
  gelu_tanh: elementwise(x => x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))) / 2),
  clamp: elementwise((x, step) => Math.min(Math.max(x, step.low ?? -Infinity), step.high ?? Infinity)),
  elu: elementwise((x, step) => x > 0 ? x : step.alpha * Math.expm1(x)),
  hardsigmoid: elementwise(x => Math.min(Math.max(x + 3, 0), 6) / 6),
  hardswish: elementwise(x => x * Math.min(Math.max(x + 3, 0), 6) / 6),
  mish: elementwise(x => x * Math.tanh(softplus(x))),
  softplus: elementwise((x, step) => step.beta * x > step.threshold ? x : softplus(step.beta * x) / step.beta),
  absolute: elementwise(Math.abs),
  exp: elementwise(Math.exp),
  sin: elementwise(Math.sin),
  cos: elementwise(Math.cos),
  log: elementwise(Math.log),
  sqrt: elementwise(Math.sqrt),
  power: elementwise((x, step) => x ** step.exponent),
  affine: elementwise((x, step) => x * step.factor + step.summand),
  reciprocal: elementwise((x, step) => step.number / x),

  softmax: (step, x, shape) => softmax(x, shape, step.axis),
  log_softmax: (step, x, shape) => softmax(x, shape, step.axis, (x, most, sum) => x - most - Math.log(sum)),

  add: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p + q),
  subtract: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p - q),
  multiply: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p * q),
  divide: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p / q),

  maximum: (step, a, one, b, other) => broadcast(step, a, one, b, other, Math.max),
  minimum: (step, a, one, b, other) => broadcast(step, a, one, b, other, Math.min),
  greater: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p > q ? 1 : 0),
  greater_equal: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p >= q ? 1 : 0),
  equal: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p === q ? 1 : 0),
  not_equal: (step, a, one, b, other) => broadcast(step, a, one, b, other, (p, q) => p === q ? 0 : 1),
  where(step, condition, its, a, one, b, other) {
    const y = new Float32Array(size(step.shape));
    each(step.shape, (index, at) => {
      y[at] = condition[within(index, its)] !== 0 ? a[within(index, one)] : b[within(index, other)];
    });
    return y;
  },

  // of each image or head
  matmul(step, a, one, b, other) {
    const y = new Float32Array(size(step.shape)), inner = one[one.length - 1], width = other[other.length - 1];
    const height = one[one.length - 2];
    for (let i = 0; i < y.length; i++) {
      const row = Math.floor(i / width), head = Math.floor(row / height);
      let sum = 0;
      for (let k = 0; k < inner; k++) sum += a[row * inner + k] * b[(head * inner + k) * width + i % width];
      y[i] = sum;
    }
    return y;
  },

  sum: (step, x, shape) => reduced(step, x, shape, 0, (a, b) => a + b),
  mean: (step, x, shape) => reduced(step, x, shape, 0, (a, b) => a + b).map(n => n * size(step.shape) / x.length),
  amax: (step, x, shape) => reduced(step, x, shape, -Infinity, Math.max),
  amin: (step, x, shape) => reduced(step, x, shape, Infinity, Math.min),

  // step.tables: of each axis the places in x, of which -1 stands for step.value; null: all
  pick(step, x, shape) {
    const y = new Float32Array(size(step.shape));
    each(step.shape, (index, at) => {
      const from = index.map((n, axis) => step.tables[axis] ? step.tables[axis][n] : n);
      y[at] = from.some(n => n < 0) ? Number(step.value) : x[offset(from, shape)];
    });
    return y;
  },
  // step.rows, step.columns: of each the first and second one in x; step.down, step.right: the share of the second
  bilinear(step, x, shape) {
    const y = new Float32Array(size(step.shape));
    each(step.shape, ([c, i, j], at) => {
      const row = k => (1 - step.right[j]) * x[offset([c, step.rows[i][k], step.columns[j][0]], shape)]
                     + step.right[j] * x[offset([c, step.rows[i][k], step.columns[j][1]], shape)];
      y[at] = (1 - step.down[i]) * row(0) + step.down[i] * row(1);
    });
    return y;
  },
  // axis k of y is axis step.axes[k] of x
  permute(step, x, shape) {
    const y = new Float32Array(x.length), from = [];
    each(step.shape, (index, at) => {
      index.forEach((n, k) => { from[step.axes[k]] = n; });
      y[at] = x[offset(from, shape)];
    });
    return y;
  },
  pixel_shuffle(step, x, shape) {
    const y = new Float32Array(x.length), r = step.factor;
    each(step.shape, ([c, i, j], at) => {
      y[at] = x[offset([(c * r + i % r) * r + j % r, Math.floor(i / r), Math.floor(j / r)], shape)];
    });
    return y;
  },
  pixel_unshuffle(step, x, shape) {
    const y = new Float32Array(x.length), r = step.factor;
    each(shape, ([c, i, j], at) => {
      y[offset([(c * r + i % r) * r + j % r, Math.floor(i / r), Math.floor(j / r)], step.shape)] = x[at];
    });
    return y;
  },

  reshape: (step, x) => x,
  slice(step, x, shape) {
    const pixels = x.length / shape[0];
    return x.subarray(step.first * pixels, step.stop * pixels);
  },
  concat(step, ...given) {
    const y = new Float32Array(size(step.shape));
    for (let i = 0, first = 0; i < given.length; first += given[i + 1][step.axis], i += 2)
      each(given[i + 1], (index, at) => {
        y[offset(index.map((n, axis) => axis === step.axis ? first + n : n), step.shape)] = given[i][at];
      });
    return y;
  },
  constant: step => step.w,
};

// y = w xhat + b of n elements, from `first` on, `apart` elements from one another
function normal(step, x, y, n, first, apart) {
  let mean = 0, variance = 0;
  for (let i = 0; i < n; i++) mean += x[first + i * apart] / n;
  for (let i = 0; i < n; i++) variance += (x[first + i * apart] - mean) ** 2 / n;
  for (let i = 0; i < n; i++) {
    const xhat = (x[first + i * apart] - mean) / Math.sqrt(variance + step.eps);
    y[first + i * apart] = xhat * (step.w ? step.w[i] : 1) + (step.b ? step.b[i] : 0);
  }
}

// step.rows, step.columns: of each window the first pixel, one past the last, and the pixels to divide by;
// step.steps: from pixel to pixel
function windows(step, x, [channels, height, width], start, join, end) {
  const y = new Float32Array(size(step.shape));
  let at = 0;
  for (let c = 0; c < channels; c++) for (const [top, bottom, tall] of step.rows) {
    for (const [left, right, wide] of step.columns) {
      let value = start;
      for (let i = top; i < bottom; i += step.steps[0]) for (let j = left; j < right; j += step.steps[1]) {
        value = join(value, x[(c * height + i) * width + j]);
      }
      y[at++] = end(value, tall * wide);
    }
  }
  return y;
}

function softmax(x, shape, axis, share = (x, most, sum) => Math.exp(x - most) / sum) {
  const channels = shape[axis], apart = size(shape.slice(axis + 1)), y = new Float32Array(x.length);
  for (let whole = 0; whole < x.length; whole += channels * apart)
    for (let p = whole; p < whole + apart; p++) {
      let most = -Infinity, sum = 0;
      for (let c = 0; c < channels; c++) most = Math.max(most, x[c * apart + p]);
      for (let c = 0; c < channels; c++) sum += Math.exp(x[c * apart + p] - most);
      for (let c = 0; c < channels; c++) y[c * apart + p] = share(x[c * apart + p], most, sum);
    }
  return y;
}

// log(1 + e^x)
function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

// joined over step.axes, from `start` on
function reduced(step, x, shape, start, join) {
  const y = new Float32Array(size(step.shape)).fill(start), kept = shape.map((n, i) => step.axes.includes(i) ? 0 : 1);
  each(shape, (index, at) => {
    const to = offset(index.map((n, i) => n * kept[i]), step.shape);
    y[to] = join(y[to], x[at]);
  });
  return y;
}

function offset(index, shape) {
  return index.reduce((at, n, axis) => at * shape[axis] + n, 0);
}

function each(shape, f) {
  const index = shape.map(() => 0);
  for (let at = 0, count = size(shape); at < count; at++) {
    f(index, at);
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--) index[axis] = 0;
  }
}

// where an element lies in an array whose axes of 1 are repeated
function within(index, shape) {
  return offset(index.map((n, axis) => shape[axis] === 1 ? 0 : n), shape);
}

function broadcast(step, a, one, b, other, f) {
  const y = new Float32Array(size(step.shape));
  if (a.length === y.length && b.length === y.length) return y.map((_, i) => f(a[i], b[i]));
  each(step.shape, (index, at) => { y[at] = f(a[within(index, one)], b[within(index, other)]); });
  return y;
}

// Weights are float32, little-endian, in base64; a step tells where its own begin and how many they are.
function network(model, base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
  const weights = Float32Array.from({length: bytes.length / 4}, (_, i) => view.getFloat32(4 * i, true));
  for (const step of model.steps) for (const name of ["w", "b"]) {
    if (step[name]) step[name] = weights.subarray(step[name][0], step[name][0] + step[name][1]);
  }
  // All values of one image, the input first: arrays and their shapes.
  return x => {
    const values = [{data: x, shape: model.shape}];
    for (const step of model.steps) {
      const given = step.from.flatMap(i => [values[i].data, values[i].shape]);
      values.push({data: STEPS[step.kind](step, ...given), shape: step.shape});
    }
    return values;
  };
}

function probabilities(model, scores) {
  if (model.end === "softmax") return scores;
  return model.end === "log_softmax" ? scores.map(Math.exp) : softmax(scores, [scores.length], 0);
}

// From the pixels of an ImageData, 0 to 255, to what the network takes.
function normalised(model, rgba) {
  const [channels, height, width] = model.shape, x = new Float32Array(channels * height * width);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
    const pixel = channels === 1 ? [Math.round(0.299 * r + 0.587 * g + 0.114 * b)] : [r, g, b];
    for (let c = 0; c < channels; c++) x[c * height * width + i] = (pixel[c] / 255 - model.mean[c]) / model.std[c];
  }
  return x;
}
