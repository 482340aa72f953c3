// Which view is shown: by what stands behind # in the address.

import { el, get, post, say } from './api.js'
import { showDrive } from './drive.js'
import { showJob, showNew } from './learn.js'
import { showLogin } from './login.js'
import { showPersons, showRecordings } from './lists.js'

const view = document.getElementById('view')
const nav = document.getElementById('nav')
let leave = () => {}
let turn = 0

const views = {
  '': showPersons,
  drive: showDrive,
  new: showNew,
  person: showJob,
  recordings: showRecordings,
}

async function route() {
  const own = ++turn
  const [, name = '', argument = ''] = location.hash.split('/')
  leave()
  leave = () => {}
  view.replaceChildren()
  try {
    const session = await get('/api/session')
    if (own !== turn) return
    document.getElementById('version').textContent = `Head2Head ${session.version}`
    nav.hidden = session.password
    document.getElementById('logout').hidden = !session.can_log_out
    if (session.password) {
      showLogin(view, route)
      return
    }
    for (const link of nav.querySelectorAll('a')) {
      if (link.getAttribute('href') === `#/${name}`) link.setAttribute('aria-current', 'page')
      else link.removeAttribute('aria-current')
    }
    const show = views[name] || showPersons
    const left = await show(view, decodeURIComponent(argument))
    if (own !== turn) { if (left) left() } else if (left) leave = left
    view.focus({ preventScroll: true })
    window.scrollTo(0, 0)
  } catch (error) {
    if (own !== turn) return
    if (error.status === 401) route()
    else view.replaceChildren(el('p', { class: 'notice' }, error.message), el('button', { type: 'button', onclick: route }, 'Try again'))
  }
}

document.getElementById('logout').addEventListener('click', async () => {
  try { await post('/api/logout'); location.hash = '#/'; route() } catch (error) { say(error) }
})
window.addEventListener('hashchange', route)
window.addEventListener('pagehide', () => leave())
route()
