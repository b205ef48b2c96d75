'use strict';
const express = require('express');

const app = express();
app.disable('x-powered-by');
app.get('/berths/:berth', (req, res) => {
  if (!/^\d+$/.test(req.params.berth)) {
    res.status(400).json({ error: 'a berth is a number' });
    return;
  }
  res.json({ berth: req.params.berth, free: Number(req.params.berth) % 2 === 1 });
});
const server = app.listen(8080, '0.0.0.0');
process.on('SIGTERM', () => server.close());
