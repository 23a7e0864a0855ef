"use strict";
// The cortex in WebGL 2: both hemispheres side by side, turned as mirror images of each other, so
// that a view shows the same side of both. `Scene` draws, projects and finds vertices.

const SURFACE = [
  `#version 300 es
in vec3 position; in vec3 normal; in vec4 colour;
uniform mat3 turn; uniform vec3 pivot; uniform vec2 unit;
out vec4 shade;
void main() {
  vec3 seen = turn * (position - pivot);
  gl_Position = vec4(seen.xy * unit, -seen.z / 400.0, 1.0);
  float light = 0.8 + 0.2 * max(0.0, dot(turn * normal, vec3(-0.3, 0.4, 0.87)));
  shade = vec4(colour.rgb * light, 1.0);
}`,
  `#version 300 es
precision mediump float;
in vec4 shade; out vec4 paint;
void main() { paint = shade; }`,
];
const LINES = [  // a quad for each piece of an outline, as wide as asked in pixels
  `#version 300 es
in vec3 from; in vec3 to;
uniform mat3 turn; uniform vec3 pivot; uniform vec2 unit; uniform vec2 size; uniform float width; uniform float lift;
void main() {
  vec3 a = turn * (from - pivot), b = turn * (to - pivot);
  vec2 along = (b.xy - a.xy) * unit * size;
  along = length(along) > 1e-6 ? normalize(along) : vec2(1.0, 0.0);
  int corner = gl_VertexID;  // of two triangles
  bool end = corner == 1 || corner == 2 || corner == 4;
  float side = (corner == 2 || corner == 4 || corner == 5) ? 1.0 : -1.0;
  vec2 away = (vec2(-along.y, along.x) * side + along * (end ? 0.5 : -0.5)) * width / size;
  vec3 at = end ? b : a;
  gl_Position = vec4(at.xy * unit + away, -(at.z + lift) / 400.0, 1.0);
}`,
  `#version 300 es
precision mediump float;
uniform vec4 ink; out vec4 paint;
void main() { paint = ink; }`,
];
const TURNS = {  // about the upright axis, then about the one to the right (radians)
  posterior: [0, 0], lateral: [Math.PI / 2, 0], medial: [-Math.PI / 2, 0],
  ventral: [Math.PI, -Math.PI / 2],
};

function program(gl, sources) {
  const made = gl.createProgram();
  sources.forEach((source, i) => {
    const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  });
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

function normals(points, faces) {
  const out = new Float32Array(points.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [faces[f] * 3, faces[f + 1] * 3, faces[f + 2] * 3];
    const u = [0, 1, 2].map((k) => points[b + k] - points[a + k]);
    const v = [0, 1, 2].map((k) => points[c + k] - points[a + k]);
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) out[corner + k] += n[k];
  }
  for (let i = 0; i < out.length; i += 3) {
    const size = Math.hypot(out[i], out[i + 1], out[i + 2]) || 1;
    for (let k = 0; k < 3; k++) out[i + k] /= size;
  }
  return out;
}

// The borders of all areas: through the middles of the sides of triangles that they cross.
function borders(points, faces, member) {
  const ends = [];
  for (let f = 0; f < faces.length; f += 3) {
    const corner = [faces[f], faces[f + 1], faces[f + 2]];
    const bits = corner.map((v) => member[v]);
    let differ = (bits[0] ^ bits[1]) | (bits[1] ^ bits[2]);
    for (; differ; differ &= differ - 1) {
      const bit = differ & -differ;
      for (let e = 0; e < 3; e++) {
        const [p, q] = [corner[e], corner[(e + 1) % 3]];
        if ((member[p] ^ member[q]) & bit)
          for (let k = 0; k < 3; k++) ends.push((points[3 * p + k] + points[3 * q + k]) / 2);
      }
    }
  }
  return new Float32Array(ends);
}

class Scene {
  // hemis: [{points, flat, faces, flatFaces, member, row}], the left one first
  constructor(canvas, hemis) {
    this.canvas = canvas;
    this.hemis = hemis;
    this.yaw = 0; this.pitch = 0; this.zoom = 1; this.isFlat = false;
    const gl = this.gl = canvas.getContext("webgl2", { antialias: true });
    for (const hemi of hemis) {
      hemi.shapes = [
        { points: hemi.points, faces: hemi.faces, normal: normals(hemi.points, hemi.faces) },
        { points: hemi.flat, faces: hemi.flatFaces, normal: normals(hemi.flat, hemi.flatFaces) },
      ];
      for (const shape of hemi.shapes) shape.pivot = this.middle(shape, hemi.row);
    }
    if (!gl) return;
    this.surface = program(gl, SURFACE);
    this.lines = program(gl, LINES);
    for (const hemi of hemis) {
      hemi.colour = gl.createBuffer();
      for (const shape of hemi.shapes) {
        shape.borders = borders(shape.points, shape.faces, hemi.member);
        shape.mesh = this.arrays(this.surface, [["position", shape.points], ["normal", shape.normal]]);
        gl.bindBuffer(gl.ARRAY_BUFFER, hemi.colour);
        const colour = gl.getAttribLocation(this.surface, "colour");
        gl.enableVertexAttribArray(colour);
        gl.vertexAttribPointer(colour, 4, gl.UNSIGNED_BYTE, true, 0, 0);
        gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, shape.faces, gl.STATIC_DRAW);
        shape.outline = this.arrays(this.lines, []);
        gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ARRAY_BUFFER, shape.borders, gl.STATIC_DRAW);
        ["from", "to"].forEach((name, i) => {
          const at = gl.getAttribLocation(this.lines, name);
          gl.enableVertexAttribArray(at);
          gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 24, 12 * i);
          gl.vertexAttribDivisor(at, 1);
        });
      }
    }
  }

  arrays(of, named) {
    const gl = this.gl, made = gl.createVertexArray();
    gl.bindVertexArray(made);
    for (const [name, values] of named) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const at = gl.getAttribLocation(of, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
    }
    return made;
  }

  // The middle of the vertices that have data, about which the cortex turns.
  middle(shape, row) {
    const sum = [0, 0, 0];
    let n = 0;
    for (const v of new Set(shape.faces)) if (row[v] >= 0) {
      for (let k = 0; k < 3; k++) sum[k] += shape.points[3 * v + k];
      n++;
    }
    return sum.map((s) => s / Math.max(n, 1));
  }

  paint(hemi, colours) {
    const gl = this.gl;
    if (!gl) return;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.hemis[hemi].colour);
    gl.bufferData(gl.ARRAY_BUFFER, colours, gl.STATIC_DRAW);
  }

  look(view) {
    this.isFlat = view === "flat";
    this.shift = [0, 0];
    this.zoom = 1;
    if (!this.isFlat) [this.yaw, this.pitch] = TURNS[view];
  }

  // Turn, or move the flat one, so that what is under the pointer follows it (CSS pixels).
  drag(dx, dy, hemi) {
    const mirror = hemi ? -1 : 1;
    if (this.isFlat) {
      const [ux, uy] = this.unit();
      this.shift[0] += mirror * 4 * dx / this.canvas.clientWidth / ux;
      this.shift[1] -= 2 * dy / this.canvas.clientHeight / uy;
    } else {
      this.yaw += mirror * 0.009 * dx;
      this.pitch += 0.009 * dy;
    }
  }

  magnify(by) { this.zoom = Math.min(12, Math.max(0.5, this.zoom * by)); }

  unit() {  // NDC of a half of the canvas for a millimetre
    const w = this.canvas.clientWidth / 2, h = this.canvas.clientHeight;
    const pixels = this.zoom * Math.min(w / (this.isFlat ? 150 : 125), h / (this.isFlat ? 190 : 135));
    return [2 * pixels / w, 2 * pixels / h];
  }

  // Rows of the matrix: right, up, and towards the eye.
  turn(hemi) {
    if (this.isFlat) return [1, 0, 0, 0, 1, 0, 0, 0, 1];
    const yaw = hemi ? -this.yaw : this.yaw;
    const [c, s, d, t] = [Math.cos(yaw), Math.sin(yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    return [c, -s, 0, s * t, c * t, d, -s * d, -c * d, t];
  }

  pivot(hemi) {
    const p = this.hemis[hemi].shapes[+this.isFlat].pivot;
    if (!this.isFlat) return p;
    return [p[0] - (hemi ? -1 : 1) * this.shift[0], p[1] - this.shift[1], p[2]];
  }

  draw(outlines, background) {
    const gl = this.gl, { canvas } = this;
    if (!gl) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(...background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.SCISSOR_TEST);
    const half = w >> 1;
    this.hemis.forEach((hemi, i) => {
      const shape = hemi.shapes[+this.isFlat];
      gl.viewport(i * half, 0, half, h);
      gl.scissor(i * half, 0, half, h);
      const place = (of) => {
        gl.useProgram(of);
        const at = (name) => gl.getUniformLocation(of, name);
        gl.uniformMatrix3fv(at("turn"), true, this.turn(i));
        gl.uniform3fv(at("pivot"), this.pivot(i));
        gl.uniform2fv(at("unit"), this.unit());
        return at;
      };
      place(this.surface);
      gl.bindVertexArray(shape.mesh);
      gl.drawElements(gl.TRIANGLES, shape.faces.length, gl.UNSIGNED_SHORT, 0);
      if (!outlines) return;
      const at = place(this.lines);
      gl.bindVertexArray(shape.outline);
      gl.uniform2f(at("size"), half, h);
      for (const [width, lift, ink] of [[3.2, 0.8, [1, 1, 1, 1]], [1.5, 1.6, [0, 0, 0, 1]]]) {
        gl.uniform1f(at("lift"), lift);  // mm above the surface, the dark line above its halo
        gl.uniform1f(at("width"), width * ratio);
        gl.uniform4fv(at("ink"), ink);
        gl.drawArraysInstanced(gl.TRIANGLES, 0, 6, shape.borders.length / 6);
      }
    });
  }

  // Where vertices are: x and y in CSS pixels of the canvas, and nearness.
  project(hemi, vertices) {
    const { points } = this.hemis[hemi].shapes[+this.isFlat];
    const m = this.turn(hemi), p = this.pivot(hemi), [ux, uy] = this.unit();
    const w = this.canvas.clientWidth / 2, h = this.canvas.clientHeight;
    const out = new Float32Array(3 * vertices.length);
    for (let i = 0; i < vertices.length; i++) {
      const v = 3 * vertices[i];
      const [x, y, z] = [points[v] - p[0], points[v + 1] - p[1], points[v + 2] - p[2]];
      out[3 * i] = w * (hemi + 0.5 + ux * (m[0] * x + m[1] * y + m[2] * z) / 2);
      out[3 * i + 1] = h * (0.5 - uy * (m[3] * x + m[4] * y + m[5] * z) / 2);
      out[3 * i + 2] = m[6] * x + m[7] * y + m[8] * z;
    }
    return out;
  }

  faces(hemi) { return this.hemis[hemi].shapes[+this.isFlat].faces; }

  // How far a vertex's normal points to the eye, 1 straight at it.
  facing(hemi, vertex) {
    const { normal } = this.hemis[hemi].shapes[+this.isFlat], m = this.turn(hemi);
    return [0, 1, 2].reduce((sum, k) => sum + m[6 + k] * normal[3 * vertex + k], 0);
  }

  // The vertex that is seen at a point of the canvas; null beside the brain.
  at(x, y) {
    const hemi = x < this.canvas.clientWidth / 2 ? 0 : 1, faces = this.faces(hemi);
    const seen = this.project(hemi, this.hemis[hemi].every);
    let best = null, front = -Infinity;
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const area = (seen[b] - seen[a]) * (seen[c + 1] - seen[a + 1])
        - (seen[c] - seen[a]) * (seen[b + 1] - seen[a + 1]);
      if (!area) continue;
      const share = [[b, c], [c, a], [a, b]].map(([p, q]) => ((seen[p] - x) * (seen[q + 1] - y)
        - (seen[q] - x) * (seen[p + 1] - y)) / area);
      if (Math.min(...share) < 0) continue;
      const depth = share[0] * seen[a + 2] + share[1] * seen[b + 2] + share[2] * seen[c + 2];
      if (depth <= front) continue;
      front = depth;
      best = faces[f + share.indexOf(Math.max(...share))];
    }
    return best === null ? null : { hemi, vertex: best };
  }

  // The neighbour of a vertex in a direction of the canvas; null if none lies that way.
  next(hemi, vertex, dx, dy) {
    const faces = this.faces(hemi), near = new Set();
    for (let f = 0; f < faces.length; f += 3) {
      const corner = [faces[f], faces[f + 1], faces[f + 2]];
      if (corner.includes(vertex)) corner.forEach((v) => near.add(v));
    }
    near.delete(vertex);
    const around = [...near], at = this.project(hemi, [vertex, ...around]);
    const along = around.map((_, i) => {
      const [x, y] = [at[3 * i + 3] - at[0], at[3 * i + 4] - at[1]];
      return (x * dx + y * dy) / (Math.hypot(x, y) || 1);
    });
    const best = along.indexOf(Math.max(...along));
    return along[best] > 0.3 ? around[best] : null;
  }
}
